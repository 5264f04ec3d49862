"""Words that every room uses: norms, results, questions, errors, files. Nothing numerical."""
