package pgembed

// Search replaces the folders where programs are looked for.
func (c Config) Search(folders ...string) Config {
	c.search = append([]string{}, folders...)
	return c
}

// Accounts replaces the accounts that root tries.
func (c Config) Accounts(names ...string) Config {
	c.accounts = names
	return c
}
