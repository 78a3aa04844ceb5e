"""Simulated task suites; torch is never imported here."""
