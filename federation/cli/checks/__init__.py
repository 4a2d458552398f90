"""What `fedctl check` looks at: facts are gathered in one place, findings made of them in another."""
