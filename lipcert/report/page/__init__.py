"""One self-contained HTML page of reports and gate verdicts: no network, light and dark, for a phone and for paper."""
