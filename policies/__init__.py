"""Networks that act; no simulator is ever imported here."""
