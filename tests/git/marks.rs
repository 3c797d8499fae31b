//! What a job claims of its layer that the kernel has not said. In a namespace of users a job may set what the kernel sets there.

use std::fs;

use sawmill::git::{Change, Strategy};

use super::fixture::{Place, committed, list_tree, strategy, write};

/// What the kernel says by such attributes, and what a job might want it to say.
const FORGED: [(&str, &[u8]); 4] = [
    ("user.overlay.redirect", b"/../../../../../../etc"),
    ("user.overlay.opaque", b"y"),
    ("user.overlay.opaque", b"x"),
    ("user.overlay.metacopy", b""),
];

#[tokio::test]
async fn what_a_job_sets_through_the_mount_is_no_mark() {
    for (name, value) in FORGED {
        let place = Place::new();
        place.seed(|seed| write(seed, "src/deep/er", "deep\n"));
        let worktree = place.worktree("1").await;
        fs::write(worktree.tree().join("src/new.rs"), "new\n").expect("written");
        xattr::set(worktree.tree().join("src"), name, value).expect("a user may set it");
        let tree = committed(&worktree).await.tree;
        let expected = [
            "100644 .gitignore",
            "100644 README.md",
            "100644 src/deep/er",
            "100644 src/lib.rs",
            "100644 src/main.rs",
            "100644 src/new.rs",
        ];
        assert_eq!(list_tree(place.mirror.directory(), &tree), expected, "{name}");
        worktree.discard(&place.trash()).await.expect("discarded");
    }
}

#[tokio::test]
async fn what_a_job_writes_into_its_layer_by_path_leads_nowhere_else() {
    if strategy() != Strategy::Overlay {
        eprintln!("not shown: a checkout has no layer");
        return;
    }
    for (name, value) in FORGED {
        let place = Place::new();
        let worktree = place.worktree("1").await;
        fs::write(worktree.tree().join("src/new.rs"), "new\n").expect("written");
        xattr::set(place.slot("1").join("layer/upper/src"), name, value).expect("a user may set it");
        // What is hidden may be hidden; what is refused may be refused.
        if let Ok(Change::Commit(made)) = worktree.commit("x").await {
            let paths = list_tree(place.mirror.directory(), &made.tree);
            let known = |path: &String| path.contains("src/") || path.ends_with(".gitignore") || path.ends_with("README.md");
            assert!(paths.iter().all(known), "{name}: {paths:?}");
        }
        worktree.discard(&place.trash()).await.expect("discarded");
    }
}
