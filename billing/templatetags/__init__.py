"""What templates show of limits and budgets."""
