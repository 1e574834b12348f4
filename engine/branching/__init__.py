"""What if it had said something else: forks, trees of branches, their files, alignment."""
