"""Ways to show records; pure functions of them."""
