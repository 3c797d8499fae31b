//! Where in a configuration file a key stands, for whoever has to mend it.

use std::fs;
use std::ops::Range;
use std::path::Path;

use toml_edit::{ImDocument, Item};

/// The line of a key, or of the innermost section of it that is there: what is missing has no line of its own. None where the
/// file cannot be read as it was a moment ago.
pub(super) fn line_of(file: &Path, key: &[String]) -> Option<usize> {
    line_in(&fs::read_to_string(file).ok()?, key)
}

fn line_in(text: &str, key: &[String]) -> Option<usize> {
    let document = ImDocument::parse(text).ok()?;
    let mut item = document.as_item().clone();
    let mut found = None;
    for part in key {
        let Some((span, inner)) = step(&item, part) else { break };
        (found, item) = (span.or(found), inner);
    }
    Some(text[..found?.start].matches('\n').count() + 1)
}

/// The part of that name or number in an item, and where it stands.
fn step(item: &Item, part: &str) -> Option<(Option<Range<usize>>, Item)> {
    if let Some(table) = item.as_table_like() {
        let (key, inner) = table.get_key_value(part)?;
        return Some((key.span().or_else(|| inner.span()), inner.clone()));
    }
    let number: usize = part.parse().ok()?;
    if let Some(tables) = item.as_array_of_tables() {
        let table = tables.get(number)?;
        return Some((table.span(), Item::Table(table.clone())));
    }
    let value = item.as_array()?.get(number)?;
    Some((value.span(), Item::Value(value.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_however_it_is_written() {
        let text = "default_backend = \"shell\"\n\n[queue]\nlease = \"30s\"\n\n[projects.app]\nrepo = \"/r\"\n\
                    gates = [\n  { name = \"a\" },\n  { name = \"b\", tmeout = \"1s\" },\n]\nlimits.running = 1\n\n\
                    [[projects.app.checks]]\nallow = []\n[[projects.app.checks]]\nforbid = 1\n";
        let check = |key: &str, expected: Option<usize>| {
            let key: Vec<String> = key.split('.').map(str::to_owned).collect();
            assert_eq!(line_in(text, &key), expected, "{key:?}");
        };
        check("default_backend", Some(1));
        check("queue.lease", Some(4));
        check("projects.app.gates.1.tmeout", Some(10));
        check("projects.app.limits.running", Some(12));
        check("projects.app.checks.1.forbid", Some(17));
        check("projects.app.base", Some(6));
        check("worker.slots", None);
    }
}
