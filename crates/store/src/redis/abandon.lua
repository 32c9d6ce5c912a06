remove(ARGV[1])
return { 'done', '' }
