"""What algorithms and supervised learning share: the learner, the update, what it logs."""
