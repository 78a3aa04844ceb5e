"""Any Gymnasium environment as a suite."""
