"""Callbacks for the trainers of other libraries. Each module needs its library, and is imported only by its user."""
