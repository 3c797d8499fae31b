//! The address of a repository.
//!
//! The one rule: what is shown never has a password or token in it. Only [`Remote::secret_url`] gives the whole address, and
//! it goes to git through the environment, never through an argument that every user of the host could read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;

/// Where a repository is: a URL, the short form of ssh (`user@host:path`), or an absolute path.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Remote {
    text: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Url,
    Scp,
    Path,
}

/// Why a text is no address of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// Neither of the three forms.
    #[error("cannot use {0:?} as a repository: it is no URL, no user@host:path and no absolute path")]
    Form(String),
    /// A scheme that git is not given.
    #[error("cannot use a repository at {0}:// (https, http, ssh, git and file can be used)")]
    Scheme(String),
}

const SCHEMES: [&str; 5] = ["https", "http", "ssh", "git", "file"];

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let text = text.trim();
        let form = || RemoteError::Form(without_userinfo(text));
        if text.starts_with('-') || text.chars().any(char::is_control) {
            return Err(form());
        }
        if let Some((scheme, _)) = text.split_once("://") {
            if !SCHEMES.contains(&scheme) {
                return Err(RemoteError::Scheme(scheme.to_owned()));
            }
            Url::parse(text).map_err(|_| form())?;
            return Ok(Self { text: text.trim_end_matches('/').to_owned(), kind: Kind::Url });
        }
        if Path::new(text).is_absolute() && text.len() > 1 {
            return Ok(Self { text: text.trim_end_matches('/').to_owned(), kind: Kind::Path });
        }
        match text.split_once(':') {
            // A second colon at once is a remote helper (`ext::sh -c …`), which would run a command.
            Some((host, path))
                if !host.is_empty()
                    && !host.contains(['/', ' '])
                    && !path.is_empty()
                    && !path.starts_with(':')
                    && !host.split('@').next_back().unwrap_or(host).starts_with('-') =>
            {
                Ok(Self { text: text.to_owned(), kind: Kind::Scp })
            }
            _ => Err(form()),
        }
    }
}

impl Remote {
    /// The whole address, with whatever secret it has: for git alone.
    pub(super) fn secret_url(&self) -> &str {
        &self.text
    }

    /// Whether the repository is on this host's own file systems.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.kind == Kind::Path || self.scheme() == Some("file")
    }

    /// Where it is on this host's own file systems; nothing of an address that says more than that. git takes such an address as it is
    /// written, and not by the rules for URLs.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let path = match self.kind {
            Kind::Path => self.text.as_str(),
            Kind::Url => self.text.strip_prefix("file://").filter(|path| !path.contains('%'))?,
            Kind::Scp => return None,
        };
        path.starts_with('/').then(|| PathBuf::from(path))
    }

    /// The scheme, where the address is a URL.
    pub(super) fn scheme(&self) -> Option<&str> {
        (self.kind == Kind::Url).then(|| self.text.split_once("://").map(|(scheme, _)| scheme)).flatten()
    }

    /// The last part of the path, made of letters that any file system takes.
    pub(super) fn short_name(&self) -> String {
        let last = self.text.rsplit(['/', ':']).next().unwrap_or_default();
        let last = last.strip_suffix(".git").unwrap_or(last);
        let name: String =
            last.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).take(40).collect();
        let name = name.trim_matches('.');
        if name.is_empty() { "repository".to_owned() } else { name.to_owned() }
    }

    /// Takes the address's secrets out of what git printed.
    pub(super) fn scrub(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        if self.kind == Kind::Url
            && let Some((_, rest)) = self.text.split_once("://")
            && let Some((userinfo, _)) = rest.split('/').next().unwrap_or_default().rsplit_once('@')
        {
            clean = clean.replace(userinfo, "***");
            for part in userinfo.split(':').filter(|part| part.len() > 3) {
                clean = clean.replace(part, "***");
            }
        }
        clean
    }

    /// The address of a submodule as `.gitmodules` of a repository at `self` has it: `./` and `../` are relative to it.
    ///
    /// # Errors
    /// An address that is none, or one on this host's file systems where `self` is elsewhere.
    pub(super) fn submodule(&self, address: &str) -> Result<Self, String> {
        let found: Self = if address.starts_with("./") || address.starts_with("../") {
            relative(&self.text, address)?.parse().map_err(|error: RemoteError| error.to_string())?
        } else {
            address.parse().map_err(|error: RemoteError| error.to_string())?
        };
        if found.is_local() && !self.is_local() {
            return Err(format!("{found} is on this host, and its parent is not"));
        }
        if found.scheme() == Some("http") && self.scheme() != Some("http") {
            return Err(format!("{found} is not encrypted, and its parent's address is not http either"));
        }
        Ok(found)
    }
}

/// Applies a relative address as gitmodules(5) describes: each `../` takes one part off the end of `parent`.
fn relative(parent: &str, address: &str) -> Result<String, String> {
    let mut base = parent.trim_end_matches('/').to_owned();
    let mut rest = address;
    loop {
        if let Some(tail) = rest.strip_prefix("./") {
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("../") {
            let cut = base.rfind(['/', ':']).ok_or_else(|| format!("{address:?} leads out of {}", without_userinfo(parent)))?;
            if base[..cut].ends_with([':', '/']) {
                return Err(format!("{address:?} leads out of {}", without_userinfo(parent)));
            }
            let colon = base.as_bytes()[cut] == b':';
            base.truncate(if colon { cut + 1 } else { cut });
            rest = tail;
        } else {
            break;
        }
    }
    let joint = if base.ends_with(':') { "" } else { "/" };
    Ok(format!("{base}{joint}{rest}"))
}

/// The text with everything between `://` and `@` hidden, and without what follows a question mark.
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let path = path.split('?').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        // The user of ssh is no secret; over http a bare user name often is the token.
        Some((user, host)) if scheme == "ssh" && !user.contains(':') => format!("{scheme}://{user}@{host}{path}"),
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
        None => format!("{scheme}://{authority}{path}"),
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_userinfo(&self.text))
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Remote {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn what_is_shown_of_a_remote_has_no_secret() {
        let check = |text: &str, shown: &str| assert_eq!(parse(text).to_string(), shown);
        check("https://user:secret@example.com/a/b.git", "https://***@example.com/a/b.git");
        check("https://ghp_token@example.com/a", "https://***@example.com/a");
        check("https://example.com/a?private_token=x", "https://example.com/a");
        check("ssh://git@example.com:22/a", "ssh://git@example.com:22/a");
        check("git@example.com:a/b.git", "git@example.com:a/b.git");
        check("/srv/git/a.git/", "/srv/git/a.git");
        assert_eq!(format!("{:?}", parse("https://u:secret@h/a")), "Remote(https://***@h/a)");
        assert_eq!(
            parse("https://u:secret@h/a").scrub("unable to access 'https://u:secret@h/a'"),
            "unable to access 'https://***@h/a'"
        );
    }

    #[test]
    fn a_path_is_what_git_takes_an_address_for() {
        let check = |text: &str, path: Option<&str>| assert_eq!(parse(text).path().as_deref(), path.map(Path::new), "{text}");
        check("/srv/git/a.git", Some("/srv/git/a.git"));
        check("file:///srv/git/a.git", Some("/srv/git/a.git"));
        check("file:///srv/git/../a#1?x", Some("/srv/git/../a#1?x"));
        check("file:///srv/a%20b", None);
        check("file://host/srv/a", None);
        check("git@example.com:/srv/a", None);
        check("ssh://example.com/srv/a", None);
    }

    #[test]
    fn an_address_that_could_run_a_command_is_none() {
        let check = |text: &str| assert!(text.parse::<Remote>().is_err(), "{text}");
        check("ext::sh -c touch% /tmp/x");
        check("-oProxyCommand=x:y");
        check("git@-oProxyCommand=x:y");
        check("--upload-pack=x");
        check("relative/path");
        check("fd::17");
        check("ftp://example.com/a");
        check("/a\nb");
        check("/");
        check("");
    }

    #[test]
    fn a_submodule_is_found_beside_its_parent() {
        let check = |parent: &str, address: &str, expected: Option<&str>| {
            let found = parse(parent).submodule(address).ok();
            assert_eq!(found.as_ref().map(Remote::secret_url), expected, "{parent} {address}");
        };
        check("https://h/a/b.git", "../c.git", Some("https://h/a/c.git"));
        check("https://h/a/b.git", "../../x/c.git", Some("https://h/x/c.git"));
        check("https://h/a", "../../../../c", None);
        check("git@h:a/b.git", "../c.git", Some("git@h:a/c.git"));
        check("git@h:b.git", "../c.git", Some("git@h:c.git"));
        check("/srv/a.git", "../b.git", Some("/srv/b.git"));
        check("/srv/a.git", "./b.git", Some("/srv/a.git/b.git"));
        check("/srv/a.git", "/srv/b.git", Some("/srv/b.git"));
        check("/srv/a.git", "https://h/b", Some("https://h/b"));
        check("https://h/a", "/etc/x.git", None);
        check("https://h/a", "file:///etc/x.git", None);
        check("https://h/a", "http://h/b", None);
        check("https://h/a", "ext::sh -c x", None);
    }
}
