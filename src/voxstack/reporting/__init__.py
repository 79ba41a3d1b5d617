"""One page that says what was done and found (extra `report`)."""
