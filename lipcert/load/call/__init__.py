"""How a module is called: which arguments it takes, which of them move, and what every call changes in it."""
