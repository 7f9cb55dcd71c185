use super::pattern::Pattern;

#[test]
fn patterns_match_as_postgresql_s() {
    for (pattern, matched, unmatched) in [
        ("abc", &["abc", "xabcx"][..], &["ab", "ABC"][..]),
        ("^a.c$", &["abc", "a\nc", "a\u{e9}c"], &["ac", "abcd"]),
        ("^(a|bc)*$", &["", "abc", "bcbc"], &["b"]),
        ("^(|a)$", &["", "a"], &["aa"]),
        ("^a{2}$", &["aa"], &["a", "aaa"]),
        ("^a{1,}?$", &["a", "aa"], &[""]),
        ("^a{0,1}$", &["", "a"], &["aa"]),
        ("^{a}$", &["{a}"], &["a"]),
        ("^[abc-e]$", &["a", "d"], &["-", "f"]),
        ("^[]a]$", &["]", "a"], &["b"]),
        ("^[^]a]$", &["b"], &["]", "a"]),
        ("^[a-]$", &["a", "-"], &["b"]),
        ("^[-a]$", &["a", "-"], &["b"]),
        ("^[[]$", &["["], &["a"]),
        ("^[a&&b~~]$", &["a", "&", "~"], &["c"]),
        ("^[[:alpha:]_]+$", &["a_B"], &["1", "\u{e9}"]),
        ("^[[.a.]-[=c=]]$", &["a", "b", "c"], &["d"]),
        ("^\\d\\D\\s\\S\\w\\W$", &["1a b_-"], &["aa b_-"]),
        ("^[\\d\\s-]+$", &["1 -"], &["a"]),
        ("^\\.\\@\\-\\<$", &[".@-<"], &["a@-<"]),
        ("^\\x41\\u0042\\U00000043\\011$", &["ABC\t"], &["abc\t"]),
        ("^\\B\\t$", &["\\\t"], &["B\t"]),
        ("\\mdb\\M", &["a db c", "db"], &["adb", "dbc"]),
        ("[[:<:]]db[[:>:]]", &["a db c"], &["dbc"]),
        ("\\ydb\\y", &["db"], &["adb"]),
        ("\\Adb\\Z", &["db"], &["db\n"]),
        ("^(?:ab)+$", &["abab"], &["aba"]),
        ("(?i)^aB[c-d]$", &["Abc", "aBD"], &["abe"]),
        ("(?i)^[^k]$", &["l"], &["K", "k"]),
        ("(?q)a.c", &["xa.cx"], &["abc"]),
        ("***=a.c", &["a.c"], &["abc"]),
        ("***:a.c", &["abc"], &["ac"]),
        ("^\u{e9}+$", &["\u{e9}\u{e9}"], &["e"]),
        ("", &["", "a"], &[]),
    ] {
        let compiled = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for text in matched {
            assert!(compiled.matches(text), "{pattern} does not match {text:?}");
        }
        for text in unmatched {
            assert!(!compiled.matches(text), "{pattern} matches {text:?}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_pattern_is_in_postgresql_s_words() {
    for (pattern, reason) in [
        ("(", "parentheses () not balanced"),
        ("a)", "parentheses () not balanced"),
        ("[", "brackets [] not balanced"),
        ("[a", "brackets [] not balanced"),
        ("[]", "brackets [] not balanced"),
        ("[[:nix:]]", "invalid character class"),
        ("[[.ab.]]", "invalid collating element"),
        ("[b-a]", "invalid character range"),
        ("[a-\\d]", "invalid character range"),
        ("a{2", "braces {} not balanced"),
        ("a{2,1}", "invalid repetition count(s)"),
        ("a{256}", "invalid repetition count(s)"),
        ("a{2x}", "invalid repetition count(s)"),
        ("*a", "quantifier operand invalid"),
        ("a**", "quantifier operand invalid"),
        ("a|+", "quantifier operand invalid"),
        ("^*", "quantifier operand invalid"),
        ("(?x", "quantifier operand invalid"),
        ("a\\", "invalid escape \\ sequence"),
        ("\\q", "invalid escape \\ sequence"),
        ("\\u12", "invalid escape \\ sequence"),
        ("(?z)a", "invalid embedded option"),
        ("(a)\\1", "back references are not supported"),
        ("(?=a)", "lookahead and lookbehind constraints are not supported"),
        ("((a{255}){255}){255}", "regular expression is too complex"),
    ] {
        assert_eq!(Pattern::parse(pattern).err(), Some(reason), "{pattern}");
    }
}
