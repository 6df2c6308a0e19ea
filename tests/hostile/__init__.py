"""Files by strangers: what is read from them is right, or refused in one line, at little cost."""
