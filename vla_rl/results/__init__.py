"""What runs measured: metrics, evaluations and their intervals, plots and videos."""
