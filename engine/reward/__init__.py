"""What the next reinforcement-learning step would do to each token of a group of rollouts."""
