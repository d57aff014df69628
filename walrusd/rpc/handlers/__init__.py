"""The handlers of all methods, a module for each noun; its `routes` lists them by the method's name."""
