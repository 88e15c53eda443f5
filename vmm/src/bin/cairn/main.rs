//! temp
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let c = cairn_vmm::machine::app::AppConfig { program: args[0].clone().into(), arguments: args.iter().map(|a| std::ffi::CString::new(a.as_str()).unwrap()).collect(), environment: vec![], memory: 8<<30, poll: Default::default(), history: 8.try_into().unwrap() };
    let end = cairn_vmm::machine::app::run(&c)?;
    if let cairn_vmm::machine::end::End::Faulted(f) = &end { eprintln!("{f}"); }
    std::process::exit(end.status().into())
}
