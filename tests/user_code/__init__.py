"""What a user would write outside the package; the tests load it by dotted name."""
