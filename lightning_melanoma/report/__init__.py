"""What prediction tables are worth: metrics with intervals, figures, one page."""
