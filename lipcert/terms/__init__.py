"""Words and small tools that every room uses; nothing numerical."""
