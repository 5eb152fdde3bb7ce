package config

import (
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// nearest returns the word of known that was most likely meant, "" where none
// is near: by the letters that differ, or else the one that word begins. Case, dashes and underscores do not count.
func nearest(word string, known []string) string {
	const tooLong = 64 // no setting's name is; comparing takes the product of both lengths
	if len(word) > tooLong {
		return ""
	}
	plain := fold(word)
	best, least := "", max(1, min(2, len(plain)-2), len(plain)/3)+1
	for _, k := range known {
		if d := levenshtein.Distance(plain, fold(k), nil); d < least {
			best, least = k, d
		}
	}
	if i := slices.IndexFunc(known, func(k string) bool { return strings.HasPrefix(fold(k), plain) }); best == "" && len(plain) > 2 && i >= 0 {
		best = known[i]
	}
	return best
}

// suggest ends a message about a word that is none of known: with the one that
// was meant, or else with all.
func suggest(word string, known []string) string {
	if k := nearest(word, known); k != "" {
		return "did you mean " + quote(k) + "?"
	}
	return "want " + oneOf(known)
}

// oneOf lists words: "one of a, b, c".
func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return "one of " + strings.Join(words, ", ")
}

var folding = strings.NewReplacer("-", "", "_", "", ".", "")

func fold(word string) string { return folding.Replace(strings.ToLower(word)) }

// oneFolded returns the word of known that is the same but for case, dashes,
// dots and underscores; ok is false where more than one is.
func oneFolded(word string, known []string) (match string, ok bool) {
	if slices.Contains(known, word) {
		return word, true
	}
	for _, k := range known {
		if fold(k) != fold(word) {
			continue
		}
		if match != "" {
			return "", false
		}
		match = k
	}
	return match, true
}
