_normcli_completion() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^=:]/} option='' split='' index
    local typed=${line##*[[:space:]]}
    [[ $typed == -*=* ]] && option=${typed%%=*}=
    [[ -n $breaks ]] && split=${typed%"${typed##*[$breaks]}"}
    COMPREPLY=( $(env _TYPER_COMPLETE_ARGS="$line" _TYPER_COMPLETE_FISH_ACTION=get-args \
                  _NORMCLI_COMPLETE=complete_fish "$1" | cut -f 1) )
    for index in "${!COMPREPLY[@]}"; do
        COMPREPLY[index]=$option${COMPREPLY[index]}
        COMPREPLY[index]=${COMPREPLY[index]#"$split"}
    done
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=:] ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -o default -F _normcli_completion normcli
