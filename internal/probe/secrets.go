package probe

import "regexp"

// mask stands where a secret was.
const mask = "••••"

var (
	reSecretKey = regexp.MustCompile(`(?i)(pass(word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|auth$|dsn$)`)
	reSecretArg = regexp.MustCompile(`(?i)((?:--?|\b)[\w.-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|credential)[\w.-]*)([= ]+)("[^"]*"|'[^']*'|[^\s-]\S*)`)
	reURLSecret = regexp.MustCompile(`(\w+://[^\s:/@]*:)[^\s@/]+@`)
)

// secretKey reports whether the value of a variable of this name is not shown.
func secretKey(name string) bool { return reSecretKey.MatchString(name) }

// maskCommand hides what looks like a secret in a command line.
func maskCommand(s string) string {
	s = reSecretArg.ReplaceAllString(s, "${1}${2}"+mask)
	return reURLSecret.ReplaceAllString(s, "${1}"+mask+"@")
}
