package zk

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// ValidatePath checks a node's path by the server's own rules (PathUtils.validatePath).
func ValidatePath(path string) error {
	bad := func(why string) error {
		if len(path) > 200 {
			path = path[:200] + "…"
		}
		return fmt.Errorf("%w: path %q %s", ErrBadArguments, path, why)
	}
	switch {
	case path == "":
		return bad("is empty")
	case path[0] != '/':
		return bad("must start with /")
	case path == "/":
		return nil
	case path[len(path)-1] == '/':
		return bad("must not end with /")
	case !utf8.ValidString(path):
		return bad("is not UTF-8")
	}
	for name := range strings.SplitSeq(path[1:], "/") {
		switch name {
		case "":
			return bad("has an empty name in it")
		case ".", "..":
			return bad("is relative")
		}
	}
	for _, r := range path {
		if r <= 0x1f || r >= 0x7f && r <= 0x9f || r >= 0xd800 && r <= 0xf8ff || r >= 0xfff0 && r <= 0xffff {
			return bad(fmt.Sprintf("holds the character %U, which ZooKeeper does not allow", r))
		}
	}
	return nil
}

// Parent is the path of a node's parent; the root's parent is the root.
func Parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i <= 0 {
		return "/"
	}
	return path[:i]
}

// Name is the last element of a path.
func Name(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// Join puts a child's name behind its parent's path.
func Join(parent, name string) string {
	if parent == "/" || parent == "" {
		return "/" + name
	}
	return parent + "/" + name
}

// Within reports whether path is root or lies below it.
func Within(path, root string) bool {
	return root == "/" || path == root || len(path) > len(root) && path[len(root)] == '/' && path[:len(root)] == root
}

// chroot maps between the caller's paths and the server's.
type chroot string

func (c chroot) server(path string) string {
	if c == "" {
		return path
	}
	if path == "/" {
		return string(c)
	}
	return string(c) + path
}

func (c chroot) caller(path string) string {
	if c == "" || !Within(path, string(c)) {
		return path
	}
	if len(path) == len(c) {
		return "/"
	}
	return path[len(c):]
}
