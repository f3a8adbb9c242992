# dh --with allocs-rewrite: the command comes right after dh_strip; dh_allocs_rewrite(1) says why.
use strict;
use warnings;
use Debian::Debhelper::Dh_Lib;

insert_after('dh_strip', 'dh_allocs_rewrite');

1;
