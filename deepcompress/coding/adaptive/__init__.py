"""The adaptive coder: probabilities that learn from the weights already coded (docs/format.md, section 11)."""
