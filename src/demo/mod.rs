//! `sawmill demo`: the main job on one screen, from a sample repository to what an integrator does, on embedded SQLite.
//!
//! Everything in it is the real thing: the API's router, a worker with its supervisors, git. Only the repository is a sample,
//! and even that can be the caller's own.

mod fates;
mod integrate;
mod sample;
mod scene;
mod watch;

use std::time::Instant;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{DemoArgs, Exit, Form, Output, talk};
use crate::config::Environment;
use fates::Fate;
use scene::Scene;

/// Runs the demonstration. It is done only when every job met the fate that was meant for it and every delivered branch was
/// found on the remote. Ctrl-C ends its jobs, and takes the scratch directory away as at any other end.
///
/// # Errors
/// The scene cannot be set, or the API or the worker fail.
pub async fn run(args: &DemoArgs, environment: Environment) -> anyhow::Result<Exit> {
    let started = Instant::now();
    // From now on: who presses Ctrl-C while the scene is being set finds nothing left of it either.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let scene = Scene::set(args, environment).await?;
    talk(&format!("scratch directory  {}", scene.dir().display()));
    talk(&format!("remote repository  {}", scene.remote().display()));

    let played = tokio::select! {
        played = play(&scene, args, started) => played.map(|as_meant| if as_meant { Exit::Done } else { Exit::Failed }),
        _ = interrupt.recv() => {
            scene.interrupt();
            Ok(Exit::Interrupted)
        }
    };
    if played.is_err() {
        // Nobody watches what still runs.
        scene.interrupt();
    }
    scene.strike(args.keep).await?;
    played
}

/// Plays on the scene, and says whether everything went as it was meant to.
async fn play(scene: &Scene, args: &DemoArgs, started: Instant) -> anyhow::Result<bool> {
    let fates = Fate::all(args.repo.is_some(), args.jobs.unwrap_or(8));
    let ended = watch::run(scene, fates).await.context("the jobs cannot be watched")?;
    let took = started.elapsed();
    let out = Output::new(Form::Text);
    let as_meant = watch::report(&out, &ended)?;
    let delivered = integrate::run(scene, &out, &ended).await.context("the results cannot be integrated")?;
    out.line(&format!("\n{} jobs in {:.1} s; {as_meant} met the fate that was meant for them", ended.len(), took.as_secs_f64()))?;
    Ok(as_meant == ended.len() && delivered)
}
