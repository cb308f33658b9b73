// Package peers drives each contender the same way: load, enqueue, work, and tell from its database what it did.
//
// All of them get the same number of slots and of connections, an equal payload, and a handler that does nothing but
// count. What a contender cannot do is an UnsupportedError, and the page says so.
package peers
