"""Rules over reports: policies, verdicts, and the formats that CI reads."""
