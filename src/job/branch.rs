//! The names of branches: legal always, from a template, unique by a suffix where they must be.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::spec::JobSpec;
use crate::ids::JobId;

/// The longest branch name, in bytes: filesystems and forges both take it, with room for a prefix.
pub const LENGTH_MAX: usize = 120;

/// The name of a branch, without `refs/heads/`, that git accepts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(transparent)]
pub struct BranchName(String);

impl BranchName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full name of its ref.
    #[must_use]
    pub fn to_ref(&self) -> String {
        format!("refs/heads/{}", self.0)
    }

    /// The same name told apart by the end of `job`'s id, still within the limit of length.
    #[must_use]
    pub fn with_suffix(&self, job: JobId) -> Self {
        let suffix = format!("-{}", job.short());
        let kept = truncate(&self.0, LENGTH_MAX - suffix.len()).trim_end_matches(['.', '/', '-']);
        Self(format!("{kept}{suffix}"))
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text cannot be a branch name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a branch name: {why}")]
pub struct BranchError {
    name: String,
    why: &'static str,
}

impl FromStr for BranchName {
    type Err = BranchError;

    /// Applies the rules of git-check-ref-format(1) for branches, and our limit of length.
    fn from_str(name: &str) -> Result<Self, BranchError> {
        match fault(name) {
            None => Ok(Self(name.to_owned())),
            Some(why) => Err(BranchError { name: name.to_owned(), why }),
        }
    }
}

impl<'de> Deserialize<'de> for BranchName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn fault(name: &str) -> Option<&'static str> {
    let illegal = |c: char| c.is_ascii_control() || " ~^:?*[\\\u{7f}".contains(c);
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > LENGTH_MAX {
        Some("it is longer than 120 bytes")
    } else if name.starts_with('-') {
        Some("it begins with a dash")
    } else if name == "@" || name == "HEAD" || name.starts_with("refs/") {
        Some("git reserves it")
    } else if name.contains(illegal) {
        Some("it has a space, a control character or one of ~^:?*[\\")
    } else if name.contains("..") || name.contains("@{") {
        Some("it has \"..\" or \"@{\"")
    } else if name.ends_with('.')
        || name.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.ends_with(".lock"))
    {
        Some("a part of it is empty, begins with a dot or ends with .lock, or it ends with a dot")
    } else {
        None
    }
}

/// How branches are named: text with `{execution}`, `{role}`, `{slug}`, `{job}` and `{project}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchTemplate {
    text: String,
}

/// Why a text is no branch template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A placeholder that is not known, or a brace without its other half.
    #[error("branch template {template:?} has {found:?}; it may have {{execution}}, {{role}}, {{slug}}, {{job}} and {{project}}")]
    Placeholder {
        /// The template.
        template: String,
        /// The part that is not known.
        found: String,
    },
    /// Its fixed text makes every name illegal.
    #[error("branch template {template:?} yields illegal names: {example}")]
    Illegal {
        /// The template.
        template: String,
        /// An example, with the rule that it breaks.
        example: BranchError,
    },
}

const PLACEHOLDERS: [&str; 5] = ["execution", "role", "slug", "job", "project"];

impl FromStr for BranchTemplate {
    type Err = TemplateError;

    fn from_str(template: &str) -> Result<Self, TemplateError> {
        let example = expand(template, |_| Some("example".to_owned()))
            .map_err(|found| TemplateError::Placeholder { template: template.to_owned(), found })?;
        match example.parse::<BranchName>() {
            Ok(_) => Ok(Self { text: template.to_owned() }),
            Err(example) => Err(TemplateError::Illegal { template: template.to_owned(), example }),
        }
    }
}

impl fmt::Display for BranchTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for BranchTemplate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for BranchTemplate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl BranchTemplate {
    /// The branch name for a job: every value is made of letters, digits, dots, dashes and underscores, at most 40 of
    /// them, so that the name is legal whatever the job says.
    #[must_use]
    pub fn render(&self, job: JobId, spec: &JobSpec) -> BranchName {
        let value = |name: &str| match name {
            "execution" => Some(component(spec.execution.id.as_deref().unwrap_or("adhoc"))),
            "role" => Some(component(spec.execution.role.as_deref().unwrap_or("job"))),
            "slug" => Some(slug(&spec.title())),
            "job" => Some(job.short()),
            "project" => Some(component(spec.project.as_deref().unwrap_or("none"))),
            _ => None,
        };
        let full = expand(&self.text, value).unwrap_or_else(|_| job.short());
        let cut = truncate(&full, LENGTH_MAX).trim_end_matches(['.', '/', '-']).to_owned();
        BranchName(cut)
    }
}

/// Replaces every `{name}` by what `value` has for it; the error is the part that it has nothing for.
fn expand(template: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, tail) = rest.split_at(open);
        let close = tail.find('}').ok_or_else(|| tail.to_owned())?;
        let name = &tail[1..close];
        out.push_str(before);
        match PLACEHOLDERS.contains(&name).then(|| value(name)).flatten() {
            Some(text) => out.push_str(&text),
            None => return Err(tail[..=close].to_owned()),
        }
        rest = &tail[close + 1..];
    }
    match rest.find('}') {
        Some(at) => Err(rest[at..].to_owned()),
        None => Ok(out + rest),
    }
}

/// One part of a branch name from any text.
fn component(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => out.push(c),
            '.' if !out.ends_with('.') => out.push('.'),
            _ if out.ends_with('-') => {}
            _ => out.push('-'),
        }
    }
    let cut = truncate(out.trim_matches(['-', '.']), 40).trim_end_matches(['-', '.']);
    match cut.strip_suffix(".lock").unwrap_or(cut) {
        "" => "x".to_owned(),
        text => text.to_owned(),
    }
}

/// The first five words of a text, in lower case, as one part of a branch name.
fn slug(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).take(5).collect();
    component(&words.join("-").to_ascii_lowercase())
}

fn truncate(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::spec::{Execution, Task};
    use proptest::prelude::*;

    fn spec(id: &str, role: &str, instruction: &str) -> JobSpec {
        JobSpec {
            execution: Execution { id: Some(id.to_owned()), role: Some(role.to_owned()), slug: None, budget: None },
            task: Task { instruction: Some(instruction.to_owned()), ..Task::default() },
            ..JobSpec::default()
        }
    }

    #[test]
    fn a_template_names_what_it_cannot_have() {
        let check = |template: &str, expected: &str| {
            let found = template.parse::<BranchTemplate>().map_or_else(|error| error.to_string(), |_| String::new());
            assert_eq!(found, expected);
        };
        check("sawmill/{execution}/{role}/{slug}", "");
        check(
            "a/{user}",
            r#"branch template "a/{user}" has "{user}"; it may have {execution}, {role}, {slug}, {job} and {project}"#,
        );
        check(
            "a b/{slug}",
            r#"branch template "a b/{slug}" yields illegal names: "a b/example" is not a branch name: it has a space, a control character or one of ~^:?*[\"#,
        );
        check("x}", r#"branch template "x}" has "}"; it may have {execution}, {role}, {slug}, {job} and {project}"#);
    }

    #[test]
    fn a_name_is_made_of_what_the_job_says() {
        let template: BranchTemplate = "sawmill/{execution}/{role}/{slug}".parse().expect("a legal template");
        let name = template.render(JobId::generate(), &spec("plan 7", "fixer", "Fix the parser: it drops the last line"));
        assert_eq!(name.as_str(), "sawmill/plan-7/fixer/fix-the-parser-it-drops");
    }

    proptest! {
        #[test]
        fn whatever_a_job_says_its_branch_is_legal(id in "\\PC*", role in "\\PC*", words in "\\PC*") {
            let template: BranchTemplate = "sawmill/{execution}/{role}/{slug}".parse().expect("a legal template");
            let job = JobId::generate();
            let name = template.render(job, &spec(&id, &role, &words));
            prop_assert_eq!(fault(name.as_str()), None, "{}", name);
            prop_assert_eq!(fault(name.with_suffix(job).as_str()), None, "{}", name.with_suffix(job));
        }
    }
}
