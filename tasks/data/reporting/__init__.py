"""What a data set is made of: the account, its page, its pictures and a few of its rows."""
