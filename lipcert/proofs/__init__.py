"""What a certificate claims and how it is proved again; sees no method, no solver and no range analysis."""
