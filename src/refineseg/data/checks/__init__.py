"""What is wrong with the files of a data set: one list of kinds and checks, for the doctor, training and evaluation."""
