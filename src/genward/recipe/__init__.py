"""How the lab was built, judged and evaluated."""
