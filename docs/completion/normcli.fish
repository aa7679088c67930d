function _normcli_complete
    set -lx _NORMCLI_COMPLETE complete_fish
    set -lx _TYPER_COMPLETE_FISH_ACTION $argv[1]
    set -lx _TYPER_COMPLETE_ARGS (commandline -cp)
    set -l option (string match -r -- '^-[^=]*=' (commandline -ct))
    normcli | string replace -r '^' -- "$option"
    return $pipestatus[1]
end

complete --command normcli --no-files --arguments '(_normcli_complete get-args)'     --condition '_normcli_complete is-args'
