"""What a job leaves: files that are whole or not there, what they say of the job, and the proof of it."""
