"""What may be asked for: the profile, costs of a request, rates, whose turn it is."""
