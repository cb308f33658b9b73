package api

import "bytes"

// deepest is the most levels that wellFormed can be asked for.
const deepest = 128

// wellFormed tells in one pass, without recursion, whether raw is one JSON value (RFC 8259) whose arrays and objects nest
// at most limit deep. Whether it is UTF-8 is asked elsewhere. It stands in for json.Valid, which calls a function for
// each byte.
func wellFormed(raw []byte, limit int) bool {
	var object [deepest]bool // what is open: an object, or an array
	level := 0
	for i := skipBlanks(raw, 0); ; {
		// Here a value begins.
		if i == len(raw) {
			return false
		}
		switch c := raw[i]; c {
		case '{', '[':
			if level == min(limit, deepest) {
				return false
			}
			object[level] = c == '{'
			level++
			i = skipBlanks(raw, i+1)
			switch {
			case i < len(raw) && raw[i] == closing(object[level-1]):
				// Empty: the end is seen to below.
			case c == '{':
				if i = keyEnd(raw, i); i < 0 {
					return false
				}
				continue
			default:
				continue
			}
		default:
			if i = scalarEnd(raw, i); i < 0 {
				return false
			}
		}
		// Here one has ended: close what it was the last of, and go on to the next.
		for i = skipBlanks(raw, i); level > 0 && i < len(raw) && raw[i] == closing(object[level-1]); i = skipBlanks(raw, i+1) {
			level--
		}
		if level == 0 {
			return i == len(raw)
		}
		if i == len(raw) || raw[i] != ',' {
			return false
		}
		i = skipBlanks(raw, i+1)
		if object[level-1] {
			if i = keyEnd(raw, i); i < 0 {
				return false
			}
		}
	}
}

func closing(object bool) byte {
	if object {
		return '}'
	}
	return ']'
}

// keyEnd is where the value begins whose key begins at raw[i]; -1 if there is no key.
func keyEnd(raw []byte, i int) int {
	if i == len(raw) || raw[i] != '"' {
		return -1
	}
	if i = textEnd(raw, i); i < 0 {
		return -1
	}
	if i = skipBlanks(raw, i); i == len(raw) || raw[i] != ':' {
		return -1
	}
	return skipBlanks(raw, i+1)
}

// scalarEnd is the index after the string, number or word at raw[i]; -1 if there is none.
func scalarEnd(raw []byte, i int) int {
	word := ""
	switch raw[i] {
	case '"':
		return textEnd(raw, i)
	case 't':
		word = "true"
	case 'f':
		word = "false"
	case 'n':
		word = "null"
	default:
		return numberEnd(raw, i)
	}
	if !bytes.HasPrefix(raw[i:], []byte(word)) {
		return -1
	}
	return i + len(word)
}

// textEnd is the index after the string at raw[i]; -1 if it has no end, a wrong escape or a control character.
func textEnd(raw []byte, i int) int {
	for i++; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			if i++; i == len(raw) {
				return -1
			}
			switch raw[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i == len(raw) || !isHex(raw[i]) {
						return -1
					}
				}
			default:
				return -1
			}
		}
	}
	return -1
}

func isHex(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// numberEnd is the index after the number at raw[i]; -1 if there is none.
func numberEnd(raw []byte, i int) int {
	if raw[i] == '-' {
		i++
	}
	switch {
	case i == len(raw) || !isDigit(raw[i]):
		return -1
	case raw[i] == '0':
		i++ // no digit follows a leading zero
	default:
		i = digitsEnd(raw, i)
	}
	if i < len(raw) && raw[i] == '.' {
		if i++; i == len(raw) || !isDigit(raw[i]) {
			return -1
		}
		i = digitsEnd(raw, i)
	}
	if i < len(raw) && (raw[i] == 'e' || raw[i] == 'E') {
		if i++; i < len(raw) && (raw[i] == '+' || raw[i] == '-') {
			i++
		}
		if i == len(raw) || !isDigit(raw[i]) {
			return -1
		}
		i = digitsEnd(raw, i)
	}
	return i
}

func digitsEnd(raw []byte, i int) int {
	for i < len(raw) && isDigit(raw[i]) {
		i++
	}
	return i
}
