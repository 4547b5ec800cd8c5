//! `haul validate [PATH…]`

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ready;
use super::render::{self, diagnostics};
use super::{CliError, Exit, Global, signals};
use crate::define::pipeline::Schedule;
use crate::define::{check_project, has_errors};
use crate::diagnostic::suggest::known_names;
use crate::diagnostic::{Diagnostic, SourceText};
use crate::load::project::{FILE, PIPELINES, is_project, pipeline_name, shown, yaml_files};
use crate::load::stack::on_a_deep_stack;
use crate::load::{Document, Project};
use crate::plan::check;
use crate::run::launch::{Facts, Found};
use crate::schedule::triggers;

/// Arguments of `haul validate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders and globs to check; `-` for standard input [default: the project's pipelines and haul.yaml]
    paths: Vec<String>,
    /// How to show what was found
    #[arg(long, value_enum, default_value_t)]
    format: diagnostics::Format,
    /// Also ask the real systems about tables, columns, types, keys and privileges
    #[arg(long)]
    online: bool,
    /// A param's value, for --online; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", requires = "online")]
    params: Vec<String>,
}

/// The fewest files that are worth a thread.
const LEAST_SHARE: usize = 16;

/// Checks every file that is named, and reports all of their problems at once.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let format = if global.json { diagnostics::Format::Json } else { args.format };
    let mut checks = Checks::default();
    if global.project.is_some() {
        checks.given = Some(checks.project_of(&super::project::find(global)?)?);
    }
    if args.paths.is_empty() {
        checks.project(global)?;
    }
    for path in &args.paths {
        checks.named(path)?;
    }
    let params = ready::given(&args.params)?;
    checks.check();
    let unreachable = args.online && checks.ask(&params)?;
    let report = diagnostics::report(format, &checks.found, checks.jobs.len(), render::paint_out(global));
    if !(report.is_empty() || global.quiet && checks.found.is_empty()) {
        render::out(report.trim_end());
    }
    Ok(match (has_errors(&checks.found), unreachable) {
        (true, false) => Exit::Definition,
        (true, true) => Exit::Environment,
        (false, _) => Exit::Done,
    })
}

/// One file to check.
enum Job {
    /// A pipeline.
    Pipeline { name: String, source: Arc<SourceText>, project: Arc<Project> },
    /// A project file.
    Project(Arc<Project>),
    /// A file that cannot be looked into.
    Unreadable(Diagnostic),
}

/// What is found in one file, and of a pipeline its schedule and params.
#[derive(Default)]
struct Looked {
    diagnostics: Vec<Diagnostic>,
    schedule: Option<(Schedule, Document)>,
    /// The names of its params, when it is a pipeline that could be read.
    params: Vec<String>,
}

impl Job {
    fn look(&self) -> Looked {
        match self {
            Self::Pipeline { name, source, project } => {
                let checked = check(name, source, project);
                let params = checked.pipeline.iter().flat_map(|pipeline| &pipeline.params).map(|param| param.name.clone()).collect();
                let schedule = checked.pipeline.and_then(|pipeline| pipeline.schedule).zip(checked.document);
                Looked { diagnostics: checked.diagnostics, schedule, params }
            }
            Self::Project(project) => Looked { diagnostics: check_project(project), ..Looked::default() },
            Self::Unreadable(diagnostic) => Looked { diagnostics: vec![diagnostic.clone()], ..Looked::default() },
        }
    }
}

/// What every file holds, in their order; every core takes a share of them.
fn look(jobs: &[Job]) -> Vec<Looked> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let share = jobs.len().div_ceil(workers).max(LEAST_SHARE);
    std::thread::scope(|scope| {
        let check_share = |share: &[Job]| share.iter().map(Job::look).collect::<Vec<_>>();
        let threads: Vec<_> = jobs.chunks(share).map(|share| scope.spawn(move || on_a_deep_stack(|| check_share(share)))).collect();
        let found = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        found.flatten().collect()
    })
}

/// The files to check, in the order they were named.
#[derive(Default)]
struct Checks {
    jobs: Vec<Job>,
    found: Vec<Diagnostic>,
    /// The project that `--project` names: every pipeline is one of it.
    given: Option<Arc<Project>>,
    /// Projects by the folder that was asked about.
    projects: BTreeMap<PathBuf, Arc<Project>>,
    /// Project files that have been checked.
    checked: Vec<PathBuf>,
    /// Pipelines without an error, with the names of their params.
    clean: Vec<(Found, Vec<String>)>,
}

impl Checks {
    fn project(&mut self, global: &Global) -> Result<(), CliError> {
        let project = match &self.given {
            Some(project) => Arc::clone(project),
            None => self.project_of(&super::project::find(global)?)?,
        };
        self.project_file(&project);
        for file in yaml_files(&project.base.join(PIPELINES)) {
            self.file(&file)?;
        }
        Ok(())
    }

    /// A path as it was named.
    fn named(&mut self, named: &str) -> Result<(), CliError> {
        if named == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| unreadable("standard input", &error))?;
            let project = self.project_for(Path::new("."))?;
            self.pipeline("stdin", "<stdin>".to_owned(), text, &project);
            return Ok(());
        }
        let path = Path::new(named);
        if path.is_dir() {
            return self.folder(path);
        }
        if path.exists() || !named.contains(['*', '?', '[']) {
            return self.file(path);
        }
        let matches = glob::glob(named).map_err(|error| CliError::new(Exit::Definition, format!("{named} is not a glob: {error}")))?;
        let files: Vec<PathBuf> = matches.filter_map(Result::ok).filter(|path| path.is_file()).collect();
        if files.is_empty() {
            return Err(CliError::new(Exit::Definition, format!("no file matches {named}")).help("quote the glob, so that haul sees it"));
        }
        files.iter().try_for_each(|file| self.file(file))
    }

    fn folder(&mut self, folder: &Path) -> Result<(), CliError> {
        let whole_project = is_project(folder);
        if whole_project {
            let project = self.project_of(folder)?;
            self.project_file(&project);
        }
        let root = if whole_project { folder.join(PIPELINES) } else { folder.to_owned() };
        let files = yaml_files(&root);
        if files.is_empty() && !whole_project {
            return Err(CliError::new(Exit::Definition, format!("there is no YAML file below {}", folder.display())));
        }
        files.iter().try_for_each(|file| self.file(file))
    }

    fn file(&mut self, file: &Path) -> Result<(), CliError> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if file.file_name().is_some_and(|name| name == FILE) {
            let project = self.project_of(folder)?;
            self.project_file(&project);
            return Ok(());
        }
        let project = self.project_for(folder)?;
        let bytes = std::fs::read(file).map_err(|error| unreadable(&shown(file), &error))?;
        let Ok(text) = String::from_utf8(bytes) else {
            let problem = Diagnostic::error("file-encoding", "the file is not UTF-8");
            let source = Arc::new(SourceText { path: shown(file), text: String::new() });
            self.jobs.push(Job::Unreadable(problem.label(&source, 0..0, "").help("save it as UTF-8")));
            return Ok(());
        };
        self.pipeline(&pipeline_name(file), shown(file), text, &project);
        Ok(())
    }

    fn pipeline(&mut self, name: &str, path: String, text: String, project: &Arc<Project>) {
        let source = Arc::new(SourceText { path, text });
        self.jobs.push(Job::Pipeline { name: name.to_owned(), source, project: Arc::clone(project) });
    }

    /// Checks every file offline.
    fn check(&mut self) {
        let mut looked = look(&self.jobs);
        self.check_triggers(&mut looked);
        for (job, Looked { diagnostics, params, .. }) in self.jobs.iter().zip(looked) {
            if let Job::Pipeline { name, source, project } = job
                && !has_errors(&diagnostics)
            {
                let found = Found { project: (**project).clone(), name: name.clone(), source: Arc::clone(source) };
                self.clean.push((found, params));
            }
            self.found.extend(diagnostics);
        }
    }

    /// Adds what only the files of a project together show of pipelines that run after each other.
    fn check_triggers(&self, looked: &mut [Looked]) {
        let mut projects: BTreeMap<&Path, Vec<(&str, usize)>> = BTreeMap::new();
        for (number, job) in self.jobs.iter().enumerate() {
            if let Job::Pipeline { name, project, .. } = job
                && looked[number].schedule.is_some()
            {
                projects.entry(&project.base).or_default().push((name, number));
            }
        }
        for (base, pipelines) in projects {
            let names = Project::bare(base).pipeline_names();
            let known = names.keys().map(String::as_str).chain(pipelines.iter().map(|(name, _)| *name)).collect();
            let schedules = pipelines.iter().filter_map(|(name, number)| Some((*name, &looked[*number].schedule.as_ref()?.0)));
            for trouble in triggers::check(schedules, &known) {
                let of = |(name, _): &&(&str, usize)| *name == trouble.pipeline;
                let Some(found) = pipelines.iter().find(of).map(|(_, number)| &mut looked[*number]) else { continue };
                found.diagnostics.extend(found.schedule.as_ref().map(|(_, document)| trouble.diagnostic(document)));
            }
        }
    }

    /// Asks the real systems about every pipeline that is clean so far, each with those of the params that it has; says whether nothing but the
    /// environment was in the way.
    fn ask(&mut self, params: &BTreeMap<String, String>) -> Result<bool, CliError> {
        let mut offline = has_errors(&self.found);
        let clean = std::mem::take(&mut self.clean);
        let known: BTreeSet<&str> = clean.iter().flat_map(|(_, names)| names).map(String::as_str).collect();
        // A pipeline that has an error may have the param.
        for name in params.keys().filter(|name| !offline && !known.contains(name.as_str())) {
            let problem = Diagnostic::error("unknown-param", format!("`--param {name}=…` is given, and no pipeline has a param `{name}`"));
            self.found.push(problem.help(known_names(name, "params", known.iter().copied())));
        }
        offline |= has_errors(&self.found);
        let facts = |names: &[String]| {
            let own = params.iter().filter(|(name, _)| names.contains(name));
            Facts::example(own.map(|(name, value)| (name.clone(), value.clone())).collect())
        };
        let asked: Vec<(Found, Facts)> = clean.iter().map(|(found, names)| (found.clone(), facts(names))).collect();
        let answers = signals::block_on(|_| async move {
            let mut answers = Vec::new();
            for (found, facts) in asked {
                answers.push(found.plan(&facts).await.map(|plan| plan.warnings));
            }
            answers
        })?;
        let refused = || answers.iter().filter_map(|answer| answer.as_ref().err());
        let environment = !offline && refused().next().is_some() && refused().all(|refused| refused.environment);
        for diagnostic in answers.into_iter().flat_map(|answer| answer.unwrap_or_else(|refused| refused.diagnostics)) {
            // The warnings of a plan begin with those of the check.
            if !self.found.contains(&diagnostic) {
                self.found.push(diagnostic);
            }
        }
        Ok(environment)
    }

    /// Checks a project's file once.
    fn project_file(&mut self, project: &Arc<Project>) {
        if self.checked.contains(&project.base) {
            return;
        }
        self.checked.push(project.base.clone());
        if project.base.join(FILE).is_file() {
            self.jobs.push(Job::Project(Arc::clone(project)));
        }
    }

    /// The project of a pipeline in a folder.
    fn project_for(&mut self, folder: &Path) -> Result<Arc<Project>, CliError> {
        self.given.clone().map_or_else(|| self.project_of(folder), Ok)
    }

    /// The project that a folder belongs to.
    fn project_of(&mut self, folder: &Path) -> Result<Arc<Project>, CliError> {
        if let Some(project) = self.projects.get(folder) {
            return Ok(Arc::clone(project));
        }
        let absolute = folder.canonicalize().map_err(|error| unreadable(&folder.display().to_string(), &error))?;
        let project = Arc::new(Project::find(&absolute)?);
        self.projects.insert(folder.to_owned(), Arc::clone(&project));
        // What a broken project file declares is missing in every pipeline: that is said first.
        if !check_project(&project).is_empty() {
            self.project_file(&project);
        }
        Ok(project)
    }
}

/// What is named and not there is the command line's fault.
fn unreadable(what: &str, error: &std::io::Error) -> CliError {
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let exit = if missing { Exit::Definition } else { Exit::Environment };
    CliError::new(exit, format!("failed to read {what}: {error}"))
}
