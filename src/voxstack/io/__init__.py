"""Files in: tables of participants, and images by format."""
