package topology

import "regexp"

// Mask stands where a secret was.
const Mask = "••••"

var (
	reSecretKey = regexp.MustCompile(`(?i)(pass(word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|auth$|dsn$)`)
	reSecretArg = regexp.MustCompile(`(?i)((?:--?|\b)[\w.-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|credential)[\w.-]*)([= ]+)("[^"]*"|'[^']*'|[^\s-]\S*)`)
	reURLSecret = regexp.MustCompile(`(\w+://[^\s:/@]*:)[^\s@/]+@`)
)

// SecretKey reports whether the value of a variable or label of this name is not shown.
func SecretKey(name string) bool { return reSecretKey.MatchString(name) }

// MaskCommand hides what looks like a secret in a command line.
func MaskCommand(s string) string {
	s = reSecretArg.ReplaceAllString(s, "${1}${2}"+Mask)
	return reURLSecret.ReplaceAllString(s, "${1}"+Mask+"@")
}
