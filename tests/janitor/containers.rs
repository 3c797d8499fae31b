//! Containers, networks and volumes of a worker that was killed.

use std::collections::HashMap;

use bollard::models::{NetworkCreateRequest, VolumeCreateRequest};

use super::{about, reconcile, text, with_fate};
use crate::container::{image, owned};
use crate::crash::{Held, LONG, Scene};
use crate::delivery::host::{Host, Lodging, On, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_wait_for_a_dead_daemon_go_and_the_one_with_a_job_stays() {
    let scene = Scene::on(Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await, Held::Execute);
    let state = scene.host.state_dir("a");
    let worker = scene.host.start("a").await;
    scene.latch.reached().await;
    until("one has the job, and one waits", async || owned(&state).await.len() == 2).await;
    worker.kill();
    let docker = image::docker().await;
    let labels = HashMap::from([
        ("sawmill.state".to_owned(), state.display().to_string()),
        ("sawmill.boot".to_owned(), "another".to_owned()),
        ("sawmill.daemon".to_owned(), "1 2".to_owned()),
    ]);
    let name = format!("sawmill-test-{}", uuid::Uuid::new_v4().simple());
    let network = NetworkCreateRequest { name: name.clone(), labels: Some(labels.clone()), ..Default::default() };
    docker.create_network(network).await.expect("a network");
    let volume = VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..Default::default() };
    docker.create_volume(volume).await.expect("a volume");

    let before = reconcile(&scene.host, "a", &[]);
    let containers: Vec<_> = before.iter().filter(|finding| finding["kind"] == "container").collect();
    let (stays, goes): (Vec<_>, Vec<_>) = containers.into_iter().partition(|finding| finding["fate"] == "stays");
    assert_eq!((stays.len(), goes.len()), (1, 1), "{before:#?}");
    assert!(text(stays[0], "why").contains(&format!("the claim of job {} holds until", scene.job)), "{before:#?}");
    assert!(text(goes[0], "why").contains("no slot keeps it ready; its daemon, process"), "{before:#?}");
    for kind in ["network", "volume"] {
        assert!(text(about(&before, kind, &name), "why").contains("ran before this boot"), "{before:#?}");
    }
    let applied = reconcile(&scene.host, "a", &["--apply"]);
    assert_eq!(with_fate(&applied, "removed"), with_fate(&before, "goes"));
    assert_eq!(owned(&state).await.into_iter().collect::<Vec<_>>(), [text(stays[0], "name")]);
    assert!(docker.inspect_volume(&name).await.is_err());
    assert!(docker.inspect_network(&name, None).await.is_err());

    // The daemon that comes back goes on with the job, and its log has no gap.
    let worker = scene.host.start("a").await;
    scene.latch.lift();
    scene.latch.release().await;
    scene.assert_delivered_once(1).await;
    scene.close(vec![worker]).await;
}
