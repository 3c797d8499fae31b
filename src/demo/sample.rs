//! The sample repository: a small program in shell, with a library, tests and a README.

/// Its files: path, content, and whether it can be executed.
pub(super) const FILES: [(&str, &str, bool); 5] = [
    ("README.md", include_str!("sample/README.md"), false),
    ("bin/wc.sh", include_str!("sample/wc.sh"), true),
    ("lib/count.sh", include_str!("sample/count.sh"), false),
    ("tests/run.sh", include_str!("sample/run.sh"), true),
    (".gitignore", "*.tmp\nout/\n", false),
];
