"""What there is and what it costs: levels, parameters, multiply-adds, pictures."""
