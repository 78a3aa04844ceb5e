"""Results of runs: metrics, evaluations with confidence intervals, plots and videos."""
