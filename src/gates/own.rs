//! The gates that a repository asks for itself, in a file of the commit that work begins at.

use serde::Deserialize;

use crate::job::check::check_gate;
use crate::job::spec::Gate;

/// Where the file is.
pub const OWN_GATES: &str = ".sawmill/gates.toml";

/// The most that it may have.
pub const OWN_GATES_SIZE: u64 = 64 * 1024;
const GATES_MAX: usize = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    gates: Vec<Gate>,
}

/// Reads the file.
///
/// # Errors
/// A sentence: what is wrong with it, and where.
pub fn own(content: &[u8]) -> Result<Vec<Gate>, String> {
    let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
    let Document { gates } = toml::from_str(text).map_err(|error| error.to_string().trim_end().replace('\n', "; "))?;
    if gates.len() > GATES_MAX {
        return Err(format!("it has {} gates, and {GATES_MAX} is the most", gates.len()));
    }
    for (index, gate) in gates.iter().enumerate() {
        if gate.name.trim().is_empty() {
            return Err(format!("gates[{index}].name: is empty"));
        }
        check_gate(&format!("gates[{index}]"), gate).map_err(|error| error.to_string())?;
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_written_as_a_job_has_them_and_what_is_wrong_is_told() {
        let gates =
            own(b"[[gates]]\nname = \"unit\"\ncommand = \"make test\"\ntimeout = \"10m\"\ntests = \"cargo\"\n").expect("gates");
        assert_eq!(
            (gates.len(), gates[0].name.as_str(), gates[0].timeout),
            (1, "unit", Some(std::time::Duration::from_secs(600)))
        );
        assert_eq!(own(b"").expect("none"), []);
        let wrong = |text: &[u8]| own(text).expect_err("it is wrong");
        assert!(wrong(b"[[gates]]\nname = \"unit\"\n").contains("missing field `command`"));
        assert!(wrong(b"[[gates]]\nname = \"unit\"\ncommnd = \"x\"\n").contains("unknown field `commnd`"));
        assert!(wrong(b"gates = 1").contains("line 1"));
        assert_eq!(wrong(b"[[gates]]\nname = \" \"\ncommand = \"x\"\n"), "gates[0].name: is empty");
        assert!(wrong(b"[[gates]]\nname = \"a\"\ncommand = []\n").starts_with("gates[0].command: "));
        assert!(wrong(b"[[gates]]\nname = \"a\"\ncommand = \"x\"\nreports = [\"[z-a]\"]\n").starts_with("gates[0].reports[0]: "));
        assert!(wrong(&[0xff]).contains("utf-8"));
    }
}
