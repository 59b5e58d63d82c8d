"""Raw dumps become clean documents."""
