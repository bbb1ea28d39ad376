"""Job scripts for computing clusters, and trainings submitted to them."""
