package org.opensaml.core.xml;

/**
 * Stands for a class of single sign-on, which is not in the central repository.
 *
 * <p>Elasticsearch's security looks at the signatures of all its actions when it starts, also of
 * those that nobody calls here.
 */
public interface XMLObject {}
