//! Who is left out, whatever the evidence says.

use std::collections::BTreeSet;

use crate::token::claims::SubjectId;

/// What the `sub` of an Auth0 machine client ends with (client credentials).
const MACHINE: &str = "@clients";

/// Who is left out. Machine clients are unless they are asked for: there is no user to block.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Exclusions {
    /// In order: what is asked for is compared by how this is shown.
    users: BTreeSet<Box<str>>,
    patterns: Vec<Pattern>,
    /// Whether machine clients are looked at.
    pub machines: bool,
}

/// A text in which `*` stands for anything, or nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Pattern(Box<[Box<str>]>);

impl Exclusions {
    /// Leaves a user out, or with `*` in it all whose id is so.
    pub fn add(&mut self, text: &str) {
        if text.contains('*') {
            self.patterns.push(Pattern(text.split('*').map(Into::into).collect()));
        } else {
            self.users.insert(text.into());
        }
    }

    /// Leaves this user out, whatever characters the id has.
    pub fn add_user(&mut self, user: &SubjectId) {
        self.users.insert(user.as_str().into());
    }

    /// Leaves users out, one in each line, as [`add`](Self::add) does; empty lines and those that begin with `#` say nothing.
    pub fn add_lines(&mut self, text: &str) {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.for_each(|line| self.add(line));
    }

    /// Whether the user is left out.
    #[must_use]
    pub fn has(&self, user: &SubjectId) -> bool {
        let id = user.as_str();
        !self.machines && id.ends_with(MACHINE)
            || self.users.contains(id)
            || self.patterns.iter().any(|pattern| pattern.matches(id))
    }
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = &*self.0 else { return false };
        let Some(mut rest) = text.strip_prefix(&**first) else { return false };
        for part in between {
            // The first place is as good as any: what follows has most room then.
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(&**last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(id: &str) -> SubjectId {
        id.try_into().unwrap()
    }

    #[test]
    fn users_patterns_and_machines_are_left_out() {
        let mut exclusions = Exclusions::default();
        exclusions.add_lines("# the board\n\n auth0|ceo \nemail|*\n*|test-*-x\r\n");
        for out in ["auth0|ceo", "email|", "email|1", "auth0|test-1-x", "auth0|test--x", "abc@clients"] {
            assert!(exclusions.has(&user(out)), "{out}");
        }
        for not in ["auth0|ceo2", "xemail|1", "auth0|test-x", "auth0|test-1-y", "@clientsx", "# the board"] {
            assert!(!exclusions.has(&user(not)), "{not}");
        }
        let machines = Exclusions { machines: true, ..Exclusions::default() };
        assert!(!machines.has(&user("abc@clients")));
    }

    /// By trying every length that a `*` can stand for.
    fn slow(pattern: &str, text: &str) -> bool {
        match pattern.strip_prefix('*') {
            Some(rest) => (0..=text.len()).any(|at| slow(rest, &text[at..])),
            None => match (pattern.chars().next(), text.chars().next()) {
                (None, None) => true,
                (Some(wanted), Some(found)) if wanted == found => slow(&pattern[1..], &text[1..]),
                _ => false,
            },
        }
    }

    /// What is asked for again must look the same, in whatever process.
    #[test]
    fn the_same_exclusions_are_shown_the_same() {
        let of = |users: &[&str]| {
            let mut exclusions = Exclusions::default();
            for user in users {
                exclusions.add(user);
            }
            format!("{exclusions:?}")
        };
        assert_eq!(
            of(&["auth0|a", "auth0|b", "auth0|c", "auth0|d"]),
            of(&["auth0|d", "auth0|b", "auth0|a", "auth0|c"])
        );
    }

    proptest! {
        #[test]
        fn patterns_match_what_they_say(pattern in "[ab*]{1,6}", text in "[ab]{1,8}") {
            let mut exclusions = Exclusions::default();
            exclusions.add(&pattern);
            prop_assert_eq!(exclusions.has(&user(&text)), slow(&pattern, &text));
        }
    }
}
